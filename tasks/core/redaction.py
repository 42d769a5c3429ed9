"""Takes personal numbers and addresses out of a text before it is stored."""

import re
from collections.abc import Callable
from ipaddress import ip_address

Match = re.Match[str]

# Every repetition is bounded or anchored on its left, so that a hostile text costs linear time.
EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
IP = re.compile(r"(?<![\w:.])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4})(?![\w:]|\.\d)")
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)")
NAMED_ACCOUNT = re.compile(
    r"(?i)(?<!\w)((?:account|acct|a/c|customer|konto|iban|账号|账户)[ .:#]{0,3}(?:no|nr|number|nummer)?[ .:#]{0,3})"
    r"\d[\d -]{3,30}\d"
)
PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"\+\d(?:[ ().-]{0,2}\d){7,14}"  # international
    r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}"  # North American
    r"|0\d{1,4}[ /-]\d{2,8}(?:[ -]\d{2,6}){0,4}"  # with a trunk zero
    r"|1[3-9]\d{9}"  # Chinese mobile
    r")(?!\w)"
)
LONG_NUMBER = re.compile(r"(?<![\w.])\d{9,34}(?!\d|\.\d)")  # letters may follow: "08700621170150p per msg"
MIGHT_HOLD_ONE = re.compile(r"[\d@]|::")


def redact(text: str) -> str:
    """Replace e-mail and IP addresses, phone, card and account numbers by [email], [ip], [phone], [card], [account].

    Redacting twice changes nothing more.
    """
    while MIGHT_HOLD_ONE.search(text):
        shorter = _redact_once(text)
        if shorter == text:
            break
        text = shorter
    return text


def _redact_once(text: str) -> str:
    text = EMAIL.sub("[email]", text)
    text = IP.sub(_when(_is_ip, "[ip]"), text)
    text = IBAN.sub(_when(_is_iban, "[account]"), text)
    text = CARD.sub(_when(_is_card, "[card]"), text)
    text = NAMED_ACCOUNT.sub(r"\1[account]", text)
    text = PHONE.sub(_when(_is_phone, "[phone]"), text)
    return LONG_NUMBER.sub("[account]", text)


def _when(holds: Callable[[str], bool], mark: str) -> Callable[[Match], str]:
    return lambda match: mark if holds(match.group()) else match.group()


def _digits(text: str) -> list[int]:
    return [int(character) for character in text if character.isdecimal()]


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return text != "::"  # C++ writes it more often than networks do


def _is_card(text: str) -> bool:
    """Luhn's check digit, ISO/IEC 7812-1."""
    digits = _digits(text)[::-1]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return any(digits) and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """Check digits of ISO 13616: the number, its first four places moved to the end, is 1 modulo 97."""
    compact = text.replace(" ", "")
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _is_phone(text: str) -> bool:
    return 8 <= len(_digits(text)) <= 15

"""One vector per text from the vectors of its tokens.

Shapes: B texts, T tokens, D hidden size.
"""

from typing import Literal

from torch import Tensor

Pooling = Literal["mean", "cls", "last"]


def pool(hidden_BTD: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector per text: the mean over its tokens (Reimers & Gurevych 2019), its first, or its last token's.

    The last one is that of causal language models: it alone has seen the whole text.
    """
    if pooling == "cls":
        return hidden_BTD[:, 0]
    if pooling == "last":
        last_B = (attention_mask.cumsum(1) * attention_mask).argmax(1)
        return hidden_BTD.gather(1, last_B[:, None, None].expand(-1, 1, hidden_BTD.shape[-1])).squeeze(1)
    mask_BT1 = attention_mask.unsqueeze(-1).to(hidden_BTD.dtype)
    return (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1.0)

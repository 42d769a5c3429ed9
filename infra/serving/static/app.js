// Only what a page can do without: keys for labelling, copying a secret, Ctrl + Enter. Everything works without it.
"use strict";

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && target.matches("[data-submit]")) {
    target.form.requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (target.matches("input, textarea, select, [contenteditable]")) return;
  const wanted = event.key.toLowerCase();
  for (const button of document.querySelectorAll("[data-keys] [data-key]")) {
    if (button.dataset.key === wanted && !button.disabled) {
      event.preventDefault();
      button.click();
      return;
    }
  }
});

// One press, one label: a second one on the way would fall on the next text.
document.addEventListener("submit", (event) => {
  if (event.target.matches("[data-keys]")) {
    setTimeout(() => document.querySelectorAll("[data-keys] button").forEach((button) => { button.disabled = true; }));
  }
});

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = button.dataset.done;
  });
}

window.addEventListener("pageshow", () => {
  document.querySelectorAll("[data-keys] button").forEach((button) => { button.disabled = false; });
});

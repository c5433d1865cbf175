// Keys at window level: they work wherever nobody types, whatever has the focus.

/**
 * The name of a key. Latin letters and digits are what their key says; on other layouts they go by position, so that
 * shortcuts work with a Cyrillic or Greek keyboard too.
 */
export function keyName({ key, code, shiftKey }) {
  if (key.length > 1 || /^[a-z0-9+=?\-[\] ]$/i.test(key)) return key.toLowerCase();
  const [, letter] = /^Key([A-Z])$/.exec(code) ?? [];
  const [, digit] = /^(?:Digit|Numpad)(\d)$/.exec(code) ?? [];
  if (letter) return letter.toLowerCase();
  if (digit && !shiftKey) return digit;
  return { Slash: shiftKey ? "?" : key, Equal: "+", Minus: "-", BracketLeft: "[", BracketRight: "]" }[code] ?? key;
}

const TYPED = "input:not([type=range]), textarea, select";
// What these keys mean on a focused control is the control's business.
const PRESSED = "button, a, summary, [role=tab], input";
const SCROLLED = ".side, input, [role=radiogroup], [role=tablist]";

function isTaken(name, target) {
  if (name === "enter" || name === " ") return target.closest(PRESSED);
  return name.startsWith("arrow") && target.closest(SCROLLED);
}

/** @param {{press, release, step}} means `press` tells whether a key means something; `step` gets "undo" or "redo" */
export function wireKeys({ press, release, step }) {
  addEventListener("keydown", (event) => {
    const { target } = event;
    if (event.defaultPrevented || event.altKey || target.closest?.(TYPED) || document.querySelector("dialog[open]")) return;
    const name = keyName(event);
    if (event.ctrlKey || event.metaKey) {
      const move = name === "y" || (name === "z" && event.shiftKey) ? "redo" : name === "z" ? "undo" : "";
      if (!move) return;
      event.preventDefault();
      step(move);
    } else if (!(target.closest && isTaken(name, target)) && press(name, event)) {
      event.preventDefault();
    }
  });
  addEventListener("keyup", (event) => release(keyName(event)));
}

// Light, dark, or what the system says. The choice is no secret and may stay.

const NAME = "osamd.theme";
const NEXT = { "": "light", light: "dark", dark: "" };
const LABELS = { "": "as the system", light: "light", dark: "dark" };

export function wireTheme(button) {
  let theme = "";
  const use = (next) => {
    theme = next in NEXT ? next : "";
    document.documentElement.dataset.theme = theme;
    button.title = `Colours: ${LABELS[theme]}`;
    button.setAttribute("aria-label", `Colours: ${LABELS[theme]}`);
  };
  try {
    use(localStorage.getItem(NAME) ?? "");
  } catch {
    use("");
  }
  button.addEventListener("click", () => {
    use(NEXT[theme]);
    try {
      localStorage.setItem(NAME, theme);
    } catch {
      // It holds for this page.
    }
  });
}

// Light, dark, or as the system. The choice is kept in the browser.

const NAME = "osamd.theme";
const NEXT = { "": "light", light: "dark", dark: "" };
const LABELS = { "": "system", light: "light", dark: "dark" };

export function wireTheme(button) {
  let theme = "";
  const use = (next) => {
    theme = next in NEXT ? next : "";
    document.documentElement.dataset.theme = theme;
    button.title = `Theme: ${LABELS[theme]}`;
    button.setAttribute("aria-label", `Theme: ${LABELS[theme]}`);
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
      // Then it lasts as long as the page.
    }
  });
}

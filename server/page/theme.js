/* The theme, light, dark, or what the system prefers, before anything is drawn: not a module, so that it runs first. */
(() => {
  const KEY = "vramcast-theme";
  const read = () => {
    try {
      return localStorage.getItem(KEY) || "system";
    } catch {
      return "system"; // storage is switched off
    }
  };
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
  };
  const choose = (theme) => {
    apply(theme);
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // it holds for this visit
    }
  };
  apply(read());
  document.addEventListener("DOMContentLoaded", () => {
    const control = document.getElementById("theme");
    control.value = read();
    control.addEventListener("change", () => choose(control.value));
  });
})();

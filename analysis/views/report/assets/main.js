"use strict";
// The theme, and the first drawing.
{
  const select = document.getElementById("theme");
  const stored = (value) => {
    // a browser may forbid a file to keep anything
    try {
      return value === undefined ? localStorage.getItem("theme") : localStorage.setItem("theme", value);
    } catch {
      return null;
    }
  };
  const apply = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    report.repaint();
  };
  select.value = stored() ?? "";
  select.addEventListener("change", () => {
    stored(select.value);
    apply(select.value);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => report.repaint());
  apply(select.value);
  report.refilter();
  document.documentElement.dataset.ready = "true";
  performance.mark("ready");
}

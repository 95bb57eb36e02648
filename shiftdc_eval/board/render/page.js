(() => {
  "use strict";
  const value = (cell) => {
    const text = cell.textContent.trim().replace("−", "-").replace("+", "");
    const number = parseFloat(text);
    return Number.isNaN(number) ? text.toLowerCase() : number;
  };
  const order = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a < b ? -1 : a > b ? 1 : 0;
  };
  for (const table of document.querySelectorAll("table.sort")) {
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[column]), row]);
        rows.sort((a, b) => (down ? -1 : 1) * order(a[0], b[0]));
        table.tBodies[0].append(...rows.map((pair) => pair[1]));
      });
    });
  }
  const controls = document.getElementById("controls");
  if (!controls) return;
  controls.hidden = false;
  const field = (name) => controls.querySelector(`[name=${name}]`);
  const apply = () => {
    const words = field("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [task, judge, model] = ["task", "judge", "model"].map((name) => field(name).value);
    const ranked = field("ranked").checked;
    let shown = 0;
    for (const section of document.querySelectorAll("section.board")) {
      const heads = [...section.querySelectorAll("table.sort thead th")].map((head) => head.textContent);
      const column = heads.indexOf("model");
      const fits = (!task || section.dataset.task === task) && (!judge || section.dataset.judge === judge);
      let rows = 0;
      for (const row of section.querySelectorAll("table.sort tbody tr")) {
        const text = row.textContent.toLowerCase();
        row.hidden = !fits || (model && row.cells[column].firstChild.data !== model) || (ranked && row.className === "off") ||
          !words.every((word) => text.includes(word));
        if (!row.hidden) rows += 1;
      }
      section.hidden = !rows;
      const link = document.querySelector(`.contents a[href="#${section.getAttribute("aria-labelledby")}"]`);
      link.hidden = !rows;
      shown += rows;
    }
    for (const item of document.querySelectorAll(".contents li")) item.hidden = !item.querySelector("a:not([hidden])");
    document.getElementById("shown").textContent = `${shown} rows shown`;
  };
  controls.addEventListener("input", apply);
  controls.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();

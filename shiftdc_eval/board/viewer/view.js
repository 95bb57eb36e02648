(() => {
  "use strict";
  const controls = document.getElementById("controls");
  controls.hidden = false;
  const field = (name) => controls.querySelector(`[name=${name}]`);
  const apply = () => {
    const words = field("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [task, show, judge, verdict] = ["task", "show", "judge", "verdict"].map((name) => field(name).value);
    let shown = 0;
    for (const section of document.querySelectorAll("main > section")) {
      let any = false;
      for (const sample of section.querySelectorAll("article")) {
        const verdicts = [...sample.querySelectorAll(".verdicts li")]
          .filter((one) => !judge || one.dataset.judge === judge);
        const text = words.length ? sample.textContent.toLowerCase() : "";
        sample.hidden = (task && section.dataset.task !== task) ||
          (show === "split" && !sample.classList.contains("split")) ||
          (show === "unscored" && !sample.classList.contains("unscored")) ||
          (judge && !verdicts.length) ||
          (verdict && !verdicts.some((one) => one.className === verdict)) ||
          !words.every((word) => text.includes(word));
        if (!sample.hidden) { any = true; shown += 1; }
      }
      section.hidden = !any;
    }
    document.getElementById("shown").textContent = `${shown} samples shown`;
  };
  controls.addEventListener("input", apply);
  controls.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();

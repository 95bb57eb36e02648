(() => {
  "use strict";
  const PAGE = 25, PRINTED = 200;
  const byId = (id) => document.getElementById(id);
  const blocks = new Map();
  const block = (id) => {
    if (!blocks.has(id)) blocks.set(id, JSON.parse(byId(id).textContent));
    return blocks.get(id);
  };
  const [controls, main, bar] = ["controls", "main", "bar"].map(byId);
  const fields = Object.fromEntries([...controls.elements].filter((one) => one.name).map((one) => [one.name, one]));

  // every answer, and the answers to the same item by the same model
  const all = [], same = new Map();
  block("index").forEach((part, number) => part.keys.forEach((key, row) => {
    const item = JSON.stringify([part.task, part.model, part.items[row], part.repeats[row]]);
    const verdicts = Object.entries(part.judges).map(([judge, given]) => [judge, ...given[row] ?? []]).filter((one) => one[1]);
    const one = { part, number, row, key, item, verdicts };
    all.push(one);
    same.set(item, [...same.get(item) ?? [], one]);
  }));
  const html = (one) => {
    const [head, asked, answer] = block(`part${one.number}`)[one.row];
    return [head, block("asked")[asked], answer];
  };
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;")
    .replace(/"/g, "&#34;").replace(/'/g, "&#39;");
  const words = (one) => one.words ??= html(one).join(" ").replace(/<\/?mark>/g, "").replace(/<[^>]*>/g, " ").toLowerCase();
  const beside = (one, name) => same.get(one.item).find((other) => other !== one && other.part.defense === name);
  const differ = (one, other, judge) => one.verdicts.some(([name, , value]) =>
    (!judge || name === judge) && other.verdicts.some((its) => its[0] === name && its[2] !== value));

  let state = {}, found = [], at = 0;
  const address = (key) => `#${new URLSearchParams({ ...state, ...key && { at: key } })}`;
  const filter = () => {
    const wanted = escaped((state.words ?? "").toLowerCase()).split(/\s+/).filter(Boolean);
    found = all.filter((one) => {
      if (["task", "model", "defense"].some((name) => state[name] && one.part[name] !== state[name])) return false;
      const verdicts = one.verdicts.filter(([judge]) => !state.judge || judge === state.judge);
      if (state.judge && !verdicts.length) return false;
      const tones = verdicts.map((verdict) => verdict[1]);
      if (state.verdict === "split" ? !(tones.includes("good") && tones.includes("bad"))
        : state.verdict && !tones.includes(state.verdict)) return false;
      if (state.differ) {
        const other = beside(one, state.beside);
        if (!other || !differ(one, other, state.judge)) return false;
      }
      return wanted.every((word) => words(one).includes(word));
    });
  };

  const article = (one) => {
    const made = document.createElement("article"), other = state.beside && beside(one, state.beside);
    const [head, asked, answer] = html(one);
    made.id = one.key;
    made.tabIndex = -1;
    made.innerHTML = `${head}<div class="panes"><div>${asked}</div><div>${answer}</div>${
      other ? `<div>${html(other)[2]}</div>` : ""}</div>`;
    made.querySelector(".panes").classList.toggle("two", Boolean(other));
    made.querySelector(".anchor").href = address(one.key);
    const others = same.get(one.item).filter((its) => its !== one && its !== other);
    if (others.length) {
      const line = document.createElement("p");
      line.className = "others soft";
      line.append("Beside it: ");
      for (const its of others) {
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.beside = its.part.defense;
        const tones = its.verdicts.map((verdict) => verdict[1]);
        button.textContent = its.part.defense + (tones.includes("bad") ? " ✗" : tones.includes("good") ? " ✓" : "");
        line.append(button);
      }
      made.append(line);
    }
    return made;
  };
  const draw = (first, size) => main.replaceChildren(...found.slice(first, first + size).map(article));
  let drawn = "";
  const show = () => {
    const first = at - at % PAGE, page = `${first} ${address()}`;
    if (drawn !== page) draw(first, PAGE);
    drawn = page;
    main.querySelector("[aria-current]")?.removeAttribute("aria-current");
    if (found.length) byId(found[at].key).setAttribute("aria-current", "true");
    byId("shown").textContent = found.length ? `sample ${at + 1} of ${found.length}` : "no sample";
    for (const button of bar.querySelectorAll("button")) button.disabled = !found[at + Number(button.dataset.step)];
  };
  const remember = () => {
    try { history.replaceState(null, "", address(at > 0 && found[at].key)); } catch { /* a page inside another */ }
  };
  const go = (place, focus = true) => {
    at = place;
    show();
    const article = byId(found[at].key);
    if (focus) article.focus({ preventScroll: true });
    article.scrollIntoView({ block: "start" });
  };
  const step = (by, focus) => {
    if (!found[at + by]) return;
    go(at + by, focus);
    remember();
  };
  const apply = () => {
    state = {};
    for (const [name, field] of Object.entries(fields)) {
      const value = field.type === "checkbox" ? field.checked && "1" : field.value;
      if (value) state[name] = value;
    }
    if (fields.differ) fields.differ.disabled = !state.beside;
    if (!state.beside) delete state.differ;
    filter();
    at = 0;
    show();
  };
  const restore = (event) => {
    const text = location.hash.slice(1), given = new URLSearchParams(/=/.test(text) ? text : { at: text });
    for (const [name, field] of Object.entries(fields)) {
      if (field.type === "checkbox") field.checked = given.has(name);
      else field.value = given.get(name) ?? "";
      if (field.tagName === "SELECT" && field.selectedIndex < 0) field.value = "";
    }
    apply();
    const place = found.findIndex((one) => one.key === given.get("at"));
    if (place >= 0) go(place);
    else if (event) controls.scrollIntoView();
  };

  byId("plain").remove();
  controls.hidden = bar.hidden = false;
  let typed;
  controls.addEventListener("input", (event) => {
    clearTimeout(typed);
    typed = setTimeout(() => { apply(); remember(); }, event.target === fields.words ? 200 : 0);
  });
  controls.addEventListener("submit", (event) => event.preventDefault());
  bar.addEventListener("click", (event) => step(Number(event.target.dataset.step ?? NaN), false));
  main.addEventListener("click", (event) => {
    const name = event.target.dataset.beside;
    if (!name) return;
    const { key } = found[at = found.findIndex((one) => one.key === event.target.closest("article").id)];
    fields.beside.value = name;
    apply();
    go(Math.max(0, found.findIndex((one) => one.key === key)));
    remember();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    const by = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 }[event.key];
    if (by) step(by);
    else if (event.key === "/") fields.words.focus();
    else return;
    event.preventDefault();
  });
  addEventListener("hashchange", restore);
  addEventListener("beforeprint", () => {
    draw(0, PRINTED);
    byId("shown").textContent = `${Math.min(PRINTED, found.length)} of ${found.length} samples are printed`;
  });
  addEventListener("afterprint", () => { drawn = ""; show(); });
  restore();
})();

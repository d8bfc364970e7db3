"use strict";
// Shows and hides what is in the page already; asks nothing of any server.
const all = JSON.parse(document.getElementById("data").textContent);
const make = (tag, words, kind) => {
  const made = document.createElement(tag);
  if (words !== undefined) made.textContent = words;
  if (kind) made.className = kind;
  return made;
};
// "2*t-1" at t = 5 is 9: sums of numbers and multiples of a letter.
const valueAt = (words, letter, t) => {
  const terms = words.match(/[+-]?[^+-]+/g) || [];
  let total = 0;
  for (const term of terms) {
    if (!term.includes(letter)) { total += Number(term); continue; }
    const factor = term.replace("*", "").replace(letter, "");
    total += (factor === "" || factor === "+" ? 1 : factor === "-" ? -1 : Number(factor)) * t;
  }
  return total;
};
const filledIn = (line, letter, t) =>
  line.replace(/([[(,] ?)([-+*\d]*\b[a-z]\b[-+*\d]*)(?=[\],)])/g, (found, before, inner) => {
    if (!new RegExp(`^[-+*\\d]*${letter}[-+*\\d]*$`).test(inner)) return found;
    const value = valueAt(inner, letter, t);
    return Number.isFinite(value) ? before + value : found;
  });

const graph = (section, data) => {
  const panel = section.querySelector(".steps");
  const show = (loop, t) => {
    panel.hidden = false;
    panel.replaceChildren();
    const bar = make("div", undefined, "bar");
    const label = make("label", `step ${loop.letter} `);
    const input = make("input");
    input.type = "number";
    input.min = loop.first;
    if (loop.last !== null) input.max = loop.last;
    input.value = t;
    const go = by => {
      const last = loop.last === null ? Infinity : loop.last;
      show(loop, Math.min(Math.max(by, loop.first), last));
      panel.querySelector("input").focus();
    };
    input.onchange = () => go(Number(input.value) || loop.first);
    label.append(input, loop.last === null ? " of T" : ` of ${loop.last}`);
    const back = make("button", "previous"), next = make("button", "next");
    back.type = next.type = "button";
    back.onclick = () => go(t - 1);
    next.onclick = () => go(t + 1);
    bar.append(back, next, label);
    const lines = loop.lines.map(line => filledIn(line, loop.letter, t)).join("\n");
    panel.append(bar, ...loop.notes.map(note => make("p", note)), make("pre", lines));
  };
  section.querySelectorAll("[data-loop]").forEach(button => {
    button.onclick = () => show(data.loops[button.dataset.loop], data.loops[button.dataset.loop].first);
  });
  section.querySelectorAll("g[data-loop-name]").forEach(drawn => {
    drawn.onclick = () => {
      const loop = data.loops.find(each => each.name === drawn.dataset.loopName);
      if (loop) show(loop, loop.first);
    };
  });
};

const flow = (section, data) => {
  const input = section.querySelector(".step"), table = section.querySelector(".values");
  const show = () => {
    const t = Number(input.value);
    section.querySelector(".at").value = t;
    table.replaceChildren(...Object.entries(data.norms).map(([name, values]) => {
      const row = make("tr");
      row.append(make("th", name), make("td", Number(values[t - 1]).toPrecision(5)));
      return row;
    }));
  };
  input.oninput = show;
  section.querySelectorAll("rect[data-step]").forEach(cell => {
    cell.addEventListener("click", () => { input.value = Number(cell.dataset.step); show(); });
  });
  show();
};

const replay = (section, data) => {
  const stops = data.stops, panel = section.querySelector(".stop");
  const until = section.querySelector(".until"), goto = section.querySelector(".goto");
  let at = 0;
  goto.max = stops.length - 1;
  const holds = stop => {
    const match = /^\s*(gate|op|step|name)\s*=\s*(\S+)\s*$/.exec(until.value);
    if (!match) return false;
    const own = { gate: stop.gate, op: stop.operation, step: stop.steps[0], name: stop.name };
    return String(own[match[1]]) === match[2];
  };
  const list = pairs => {
    const made = make("dl");
    for (const [name, value] of pairs) made.append(make("dt", name), make("dd", value));
    return made;
  };
  const show = () => {
    const stop = stops[at];
    goto.value = at;
    const when = stop.steps.length ? ` at step ${stop.steps.join(", ")}` : "";
    panel.replaceChildren(
      make("p", `${stop.number} of ${data.count}: ${stop.name} = ${stop.operation}(...)${when}` +
        (stop.gate ? `, gate ${stop.gate}` : "") + (stop.line ? `, ${stop.line}` : "")),
      list([["rule by " + stop.argument, stop.rule], ["g", stop.g], ...stop.reads,
        ...stop.parts, ["adds to " + stop.target + `, contribution ${stop.use}`, stop.part],
        ...(stop.before === null ? [] : [["before", stop.before]]), ["total", stop.total]]));
  };
  const same = (a, b) => String(stops[a].steps) === String(stops[b].steps);
  const moves = {
    n: () => at + 1,
    p: () => at - 1,
    N: () => { let k = at; while (k < stops.length - 1 && same(k, at)) k++; return k; },
    P: () => {
      let k = at;
      while (k > 0 && same(k, at)) k--;
      const found = k;
      while (k > 0 && same(k - 1, found)) k--;
      return k;
    },
    c: () => { let k = at + 1; while (k < stops.length - 1 && !holds(stops[k])) k++; return k; },
  };
  const go = to => { at = Math.min(Math.max(to, 0), stops.length - 1); show(); };
  section.querySelectorAll("[data-key]").forEach(button => {
    button.onclick = () => go(moves[button.dataset.key]());
  });
  section.addEventListener("keydown", event => {
    if (/INPUT|SELECT/.test(event.target.tagName) || !moves[event.key]) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    go(moves[event.key]());
  });
  goto.onchange = () => go(Number(goto.value));
  section.querySelector(".target").onchange = event => {
    const own = stops.filter(stop => stop.target === event.target.value);
    section.querySelector(".uses").replaceChildren(...own.map(stop => {
      const item = make("li"), button = make("button",
        `from ${stop.name} = ${stop.operation}(...)` +
        (stop.steps.length ? ` at step ${stop.steps.join(", ")}` : "") +
        `: ${stop.part}; total ${stop.total}`);
      button.type = "button";
      button.onclick = () => go(stop.number);
      item.append(button);
      return item;
    }));
  };
  show();
};

const compare = section => {
  const linked = [...section.querySelectorAll("[data-places]")];
  section.querySelectorAll("[data-place]").forEach(button => {
    button.onclick = () => {
      section.querySelectorAll(".lit").forEach(each => each.classList.remove("lit"));
      button.parentElement.classList.add("lit");
      const own = linked.filter(each => each.dataset.places.split(" ").includes(button.dataset.place));
      own.forEach(each => each.classList.add("lit"));
      for (const kind of [".nodes", ".program"]) {
        const first = own.find(each => each.closest(kind));
        if (first) first.parentElement.scrollTop = first.offsetTop - first.parentElement.offsetTop;
      }
    };
  });
};

const activity = (section, data) => {
  const passage = section.querySelector(".passage"), output = section.querySelector(".character");
  let values = [], unit;
  passage.replaceChildren(...data.text.map((part, n) => {
    const span = make("span", part);
    span.dataset.n = n;
    return span;
  }));
  const show = () => {
    unit = data.units[section.querySelector(".unit").value];
    values = Uint8Array.from(atob(unit.bytes), c => c.charCodeAt(0));
    [...passage.children].forEach((span, n) => {
      const v = (values[n] / 255) * 2 - 1;
      span.style.background = `rgba(${v < 0 ? "33,102,172" : "178,24,43"},${Math.abs(v) * 0.6})`;
    });
  };
  const tell = event => {
    const n = event.target.dataset.n;
    if (n === undefined) return;
    const value = unit.low + (values[n] / 255) * (unit.high - unit.low);
    output.value = `${n}: ${JSON.stringify(data.text[n])} ${unit.name} = ${value.toPrecision(4)}`;
  };
  passage.addEventListener("pointerover", tell);
  passage.addEventListener("click", tell);
  section.querySelector(".unit").onchange = show;
  if (data.units.length) show();
};

const widgets = { graph, flow, replay, compare, activity };
document.querySelectorAll("section[data-kind]").forEach(section => {
  const data = all[section.dataset.number], info = section.querySelector(".info");
  if (info) {
    const tell = event => {
      const titled = event.target.closest("[data-about],rect[data-step]");
      const title = titled && titled.querySelector("title");
      if (title) info.value = (titled.dataset.about || "") + " " + title.textContent;
      else if (titled) info.value = titled.dataset.about || "";
    };
    for (const kind of ["pointerover", "focusin", "click"]) section.addEventListener(kind, tell);
  }
  const widget = widgets[section.dataset.kind];
  if (widget) widget(section, data);
});

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
  // In a page what is drawn can be reached by keys, and is read out.
  section.querySelectorAll("[data-about]").forEach(drawn => {
    const title = drawn.querySelector("title");
    drawn.setAttribute("tabindex", "0");
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label",
      [...drawn.querySelectorAll("text")].map(each => each.textContent).join(", ") +
      (title ? `, ${title.textContent}` : ""));
    drawn.ownerSVGElement.setAttribute("role", "group");
    const loop = data.loops.find(each => each.name === drawn.dataset.loopName);
    if (!loop) return;
    drawn.setAttribute("role", "button");
    drawn.onclick = () => show(loop, loop.first);
    drawn.onkeydown = event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      show(loop, loop.first);
      panel.querySelector("input").focus();
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
      const v = values[t - 1];  // what is not finite is a word
      const head = make("th", name);
      head.scope = "row";
      row.append(head, make("td", typeof v === "number" ? v.toPrecision(5) : v));
      return row;
    }));
  };
  input.oninput = show;
  section.querySelectorAll("rect[data-step]").forEach(cell => {
    cell.addEventListener("click", () => { input.value = Number(cell.dataset.step); show(); });
  });
  show();
};

// "gate=f", "|g|>10": what a stop has to be like. Not <= holds for nan, too.
const condition = words => {
  const match = /^\s*(\|g\||\|part\||gate|op|step|name)\s*(=|>)\s*(\S+)\s*$/.exec(words);
  if (!match) return null;
  const [, what, how, value] = match;
  if (what[0] === "|") {
    if (how !== ">" || Number.isNaN(Number(value))) return null;
    return stop => !(Number(stop[what]) <= Number(value));
  }
  if (how !== "=") return null;
  const own = { gate: "gate", op: "operation", name: "name" }[what];
  return stop => String(what === "step" ? stop.steps[0] : stop[own]) === value;
};

const replay = (section, data) => {
  const stops = data.stops, panel = section.querySelector(".stop");
  const until = section.querySelector(".until"), goto = section.querySelector(".goto");
  const target = section.querySelector(".target"), said = section.querySelector(".said");
  const large = section.querySelector(".large"), limit = section.querySelector(".limit");
  let at = 0;
  goto.max = stops.length - 1;
  const list = pairs => {
    const made = make("dl");
    for (const [name, value] of pairs) made.append(make("dt", name), make("dd", value));
    return made;
  };
  const during = steps => (steps.length ? ` at step ${steps.join(", ")}` : "");
  const show = () => {
    const stop = stops[at];
    goto.value = at;
    panel.replaceChildren(
      make("p", `${stop.number} of ${data.count}: ${stop.name} = ${stop.operation}(...)` +
        during(stop.steps) + (stop.gate && stop.gate !== stop.name ? `, gate ${stop.gate}` : "") +
        (stop.line ? `, ${stop.line}` : "")),
      list([["rule by " + stop.argument, stop.rule], ["g", stop.g], ...stop.reads,
        ...stop.parts,
        [`adds to ${stop.target}${during(stop["target steps"])}, contribution ${stop.use}`, stop.part],
        ...(stop.before === null ? [] : [["before", stop.before]]), ["total", stop.total]]));
  };
  const same = (a, b) => String(stops[a].steps) === String(stops[b].steps);
  const say = (words, to) => { said.value = words; return to; };
  const goOn = () => {
    const given = until.value.split(",").filter(each => each.trim());
    if (large.checked) given.push(`|g|>${limit.value}`);
    const conditions = given.map(condition), wrong = conditions.indexOf(null);
    if (wrong >= 0) return say(`not a condition: ${given[wrong]}`, at);
    let k = at + 1;
    while (k < stops.length && !conditions.some(holds => holds(stops[k]))) k++;
    if (k < stops.length) return k;
    return say(given.length ? "it holds nowhere further on" : "there is no breakpoint", k);
  };
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
    i: () => {
      const found = stops.findIndex((stop, k) => k > at && stop.node === stops[at].to);
      return found < 0 ? say(`no rule further on reads the gradient of ${stops[at].target}`, at) : found;
    },
    o: () => {
      const found = stops.findLastIndex((stop, k) => k < at && stop.to === stops[at].node);
      return found < 0 ? say("g is where the walk begins", at) : found;
    },
    c: goOn,
    x: () => say(stops[at].difference ||
      "not in this page: record(values=True) around the computation, and difference() of Replay", at),
  };
  const fields = { g: goto, b: until, w: target };
  const go = to => { at = Math.min(Math.max(to, 0), stops.length - 1); show(); };
  const move = key => { said.value = ""; go(moves[key]()); };
  section.querySelectorAll("[data-key]").forEach(button => {
    button.onclick = () => move(button.dataset.key);
  });
  section.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === until && event.key === "Enter") return move("c");
    if (event.target.matches("input:not([type=checkbox]),select")) return;
    if (moves[event.key]) move(event.key);
    else if (fields[event.key]) { event.preventDefault(); fields[event.key].focus(); }
  });
  goto.onchange = () => go(Number(goto.value));
  target.onchange = event => {
    const own = stops.filter(stop => stop.target === event.target.value);
    section.querySelector(".uses").replaceChildren(...own.map(stop => {
      const item = make("li"), button = make("button",
        `from ${stop.name} = ${stop.operation}(...)${during(stop.steps)}` +
        `: ${stop.part}; total ${stop.total}`);
      button.type = "button";
      button.onclick = () => go(stop.number);
      item.append(button);
      return item;
    }), ...(data.later[event.target.value] || []).map(words => make("li", words)));
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

// Units that tell a passage from the rest, by how many standard deviations their means differ.
const unitsFor = (units, codes, begin, end) => codes.map((own, n) => {
  let inside = 0, all = 0, squares = 0;
  own.forEach((v, k) => { all += v; squares += v * v; if (k >= begin && k < end) inside += v; });
  const mean = all / own.length, outside = (all - inside) / (own.length - end + begin);
  const spread = Math.sqrt(Math.max(squares / own.length - mean * mean, 0));
  return [n, spread ? (inside / (end - begin) - outside) / spread : 0];
}).filter(pair => Number.isFinite(pair[1]) && pair[1])
  .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 10);

// Passages of the same length at which the units do what they do here, by cosine.
const similar = (units, codes, begin, end) => {
  const centred = codes.map((own, n) => {
    const mean = own.reduce((a, b) => a + b, 0) / own.length;
    return Float64Array.from(own, v => (v - mean) * (units[n].high - units[n].low));
  });
  const length = end - begin, found = [];
  for (let at = 0; at + length <= codes[0].length; at++) {
    if (Math.abs(at - begin) < length) continue;
    let dot = 0, here = 0, there = 0;
    for (const own of centred) {
      for (let k = 0; k < length; k++) {
        const a = own[begin + k], b = own[at + k];
        dot += a * b; here += a * a; there += b * b;
      }
    }
    found.push([at, here && there ? dot / Math.sqrt(here * there) : 0]);
  }
  return found.sort((a, b) => b[1] - a[1]).slice(0, 5);
};

const activity = (section, data) => {
  const passage = section.querySelector(".passage"), output = section.querySelector(".character");
  const panel = section.querySelector(".chosen"), select = section.querySelector(".unit");
  const all = data.units.map(unit => Uint8Array.from(atob(unit.bytes), c => c.charCodeAt(0)));
  let at = 0, anchor = 0;
  const spans = data.text.map((part, n) => {
    const span = make("span", part);
    span.dataset.n = n;
    return span;
  });
  passage.replaceChildren(...spans);
  const show = () => spans.forEach((span, n) => {
    const v = (all[select.value][n] / 255) * 2 - 1;
    span.style.background = `rgba(${v < 0 ? "33,102,172" : "178,24,43"},${Math.abs(v) * 0.5})`;
  });
  const tell = n => {
    const unit = data.units[select.value];
    const value = unit.low + (all[select.value][n] / 255) * (unit.high - unit.low);
    output.value = `${n}: ${JSON.stringify(data.text[n])} ${unit.name} = ${value.toPrecision(4)}`;
  };
  const mark = () => {
    const begin = Math.min(at, anchor), end = Math.max(at, anchor) + 1;
    spans.forEach((span, n) => {
      span.classList.toggle("in", end - begin > 1 && n >= begin && n < end);
      span.classList.toggle("at", n === at);
    });
    return [begin, end];
  };
  const ask = () => {
    const [begin, end] = mark();
    if (end - begin < 2 || end - begin === spans.length) { panel.replaceChildren(); return; }
    const button = (words, act) => {
      const made = make("button", words);
      made.type = "button";
      made.onclick = act;
      return made;
    };
    const bar = (words, made) => {
      const row = make("div", undefined, "bar");
      row.append(make("span", words), ...made);
      return row;
    };
    panel.replaceChildren(
      make("p", `${begin} to ${end - 1}: ${JSON.stringify(data.text.slice(begin, end).join(""))}`),
      bar("units that stand out:", unitsFor(data.units, all, begin, end).map(([n, apart]) =>
        button(`${data.units[n].name} ${apart.toFixed(2)}`, () => { select.value = n; show(); tell(at); }))),
      bar("like it:", similar(data.units, all, begin, end).map(([from, cosine]) =>
        button(`${from}: ${JSON.stringify(data.text.slice(from, from + end - begin).join(""))} ` +
          cosine.toFixed(2), () => { anchor = from; at = from + end - begin - 1; ask(); tell(at); }))));
  };
  const place = event => (event.target.dataset.n === undefined ? null : Number(event.target.dataset.n));
  passage.addEventListener("pointerover", event => {
    const n = place(event);
    if (n !== null) tell(n);
  });
  passage.addEventListener("click", event => {
    const n = place(event);
    if (n === null || !getSelection().isCollapsed) return;
    anchor = at = n;
    tell(n);
    ask();
  });
  // What is selected in whatever way: by a mouse, a finger, a screen reader.
  document.addEventListener("selectionchange", () => {
    const selection = getSelection();
    if (selection.isCollapsed || !selection.rangeCount) return;
    const range = selection.getRangeAt(0);
    const own = spans.filter(span => range.intersectsNode(span) &&
      !(range.endContainer.parentNode === span && range.endOffset === 0) &&
      !(range.startContainer.parentNode === span && range.startOffset === span.textContent.length));
    if (!own.length) return;
    [anchor, at] = [Number(own[0].dataset.n), Number(own[own.length - 1].dataset.n)];
    ask();
  });
  passage.addEventListener("keydown", event => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    at = Math.min(Math.max(at + by, 0), spans.length - 1);
    if (!event.shiftKey) anchor = at;
    tell(at);
    ask();
  });
  select.onchange = () => { show(); tell(at); };
  if (data.units.length && spans.length) show();
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

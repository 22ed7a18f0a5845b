"use strict";
// Charts as plain SVG: axes, marks, a word beside the pointer, and a picture to keep. Colours and fonts are written
// into the elements, so that what is kept looks as what is seen; names are text content, never markup.
const Plot = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const make = (name, attributes = {}, text) => {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) if (value !== undefined) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const family = () => getComputedStyle(document.body).fontFamily;
  const ruler = document.createElement("canvas").getContext("2d");
  const width = (text, size) => {
    ruler.font = `${size}px ${family()}`;
    return ruler.measureText(text).width;
  };

  const SYMBOLS = {
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z", "square": "M-4.5 -4.5h9v9h-9z", "diamond": "M0 -6l6 6l-6 6l-6 -6z",
    "triangle-up": "M0 -5.5l5.5 9.5h-11z", "triangle-down": "M0 5.5l5.5 -9.5h-11z", "x": "M-4.5 -4.5l9 9M4.5 -4.5l-9 9",
  };
  const DASHES = {solid: undefined, dash: "6 3", dot: "2 3", dashdot: "6 3 2 3"};

  // Round steps, at most so many.
  const ticksOf = (low, high, most) => {
    if (!(high > low)) return [low];
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough);
    const ticks = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) ticks.push(at * step);
    return ticks;
  };
  const scaleOf = ({range: [low, high], log}, from, to) => {
    const f = log ? Math.log10 : value => value;
    const span = f(high) - f(low) || 1;
    return value => from + (f(value) - f(low)) / span * (to - from);
  };
  const around = (values, share = 0.05) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const space = (high - low || Math.abs(high) || 1) * share;
    return [low - space, high + space];
  };

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  document.body.append(tip);
  const say = (lines, event) => {
    tip.replaceChildren(...lines.map((line, at) => {
      const part = document.createElement("div");
      part.textContent = line;
      if (!at) part.className = "name";
      return part;
    }));
    tip.hidden = false;
    const {width: wide, height: high} = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - wide - 4))}px`;
    tip.style.top = `${Math.max(4, event.clientY - high - 12)}px`;
  };
  const hush = () => { tip.hidden = true; };
  window.addEventListener("scroll", hush, {passive: true});

  // Begin a chart in a box: its picture, with the ground painted and what lies near the pointer told.
  const begin = (id, height, told) => {
    const box = document.getElementById(id);
    const svg = make("svg", {
      class: "plot", xmlns: NS, width: box.clientWidth, height, viewBox: `0 0 ${box.clientWidth} ${height}`,
      "font-family": family(), "font-size": 13,
    });
    svg.append(make("rect", {width: "100%", height: "100%", fill: colour("card")}));
    const near = event => {
      const place = svg.getBoundingClientRect();
      const lines = told(event.clientX - place.left, event.clientY - place.top);
      if (lines) say(lines, event); else hush();
    };
    svg.addEventListener("pointermove", near);
    svg.addEventListener("pointerdown", near);
    svg.addEventListener("pointerleave", hush);
    box.replaceChildren(svg);
    return [svg, box.clientWidth];
  };

  const text = (words, x, y, more = {}) => make("text", {x, y, fill: colour("soft"), ...more}, words);

  // series: {name, colour, symbol, dash, width, joined, marks, points: [{x, y, size, low, high, tip}]}
  const scatter = (id, {height, x, y, series, lines = [], above = false}) => {
    const found = (left, top) => {
      let nearest = null, least = 24 ** 2;
      for (const {points} of series) for (const point of points) {
        const distance = (toX(point.x) - left) ** 2 + (toY(point.y) - top) ** 2;
        if (distance < least) [nearest, least] = [point, distance];
      }
      return nearest && nearest.tip;
    };
    const [svg, wide] = begin(id, height, found);
    const named = y.ticks ?? ticksOf(...y.range, Math.max(2, Math.floor(height / 55))).map(at => ({at, text: y.format(at)}));
    const left = above ? 10 : 14 + Math.max(...named.map(tick => width(tick.text, 12))) + (y.title ? 20 : 0);
    const right = wide - 16, top = 10, bottom = height - 46;
    const toX = scaleOf(x, left, right), toY = scaleOf(y, bottom, top);
    const ticks = x.ticks ?? ticksOf(...x.range, Math.max(2, Math.floor((right - left) / 70))).map(at => ({at, text: x.format(at)}));
    let end = -Infinity;
    for (const {at, text: label} of ticks) {
      const place = toX(at), half = width(label, 12) / 2;
      if (place < left - 1 || place > right + 1) continue;
      svg.append(make("line", {x1: place, x2: place, y1: top, y2: bottom, stroke: colour("grid")}));
      // Labels that would run into each other are left out.
      if (place - half < end + 6) continue;
      end = place + half;
      svg.append(text(label, place, bottom + 17, {class: "xtick", "text-anchor": "middle", "font-size": 12}));
    }
    for (const {at, text: label, ink} of named) {
      const place = toY(at);
      if (place < top - 1 || place > bottom + 1) continue;
      svg.append(make("line", {x1: left, x2: right, y1: place, y2: place, stroke: colour("grid")}));
      svg.append(text(label, above ? left : left - 8, above ? place - 12 : place + 4,
        {class: "ytick", "text-anchor": above ? "start" : "end", "font-size": 12, fill: colour(ink ? "ink" : "soft")}));
    }
    svg.append(text(x.title, (left + right) / 2, height - 8, {"text-anchor": "middle"}));
    if (y.title && !above) {
      const middle = (top + bottom) / 2;
      svg.append(text(y.title, 14, middle, {"text-anchor": "middle", transform: `rotate(-90 14 ${middle})`}));
    }
    for (const {from, to} of lines) {
      svg.append(make("line", {
        x1: toX(from[0]), y1: toY(from[1]), x2: toX(to[0]), y2: toY(to[1]),
        stroke: colour("baseline"), "stroke-width": 1.5, "stroke-dasharray": "6 4",
      }));
    }
    for (const {name, colour: hue, symbol, dash, width: thick = 2, joined, marks = true, points} of series) {
      const group = make("g", {class: "series"});
      group.append(make("title", {}, name));
      if (joined && points.length > 1) {
        group.append(make("polyline", {
          points: points.map(point => `${toX(point.x).toFixed(1)},${toY(point.y).toFixed(1)}`).join(" "),
          fill: "none", stroke: hue, "stroke-width": thick, "stroke-dasharray": DASHES[dash], "stroke-linejoin": "round",
        }));
      }
      for (const point of points) {
        const [px, py] = [toX(point.x), toY(point.y)];
        for (const [a, b] of [
          point.low !== undefined && [[toX(point.low), py], [toX(point.high), py]],
          point.below !== undefined && [[px, toY(point.below)], [px, toY(point.above)]],
        ].filter(Boolean)) {
          group.append(make("line", {x1: a[0], y1: a[1], x2: b[0], y2: b[1], stroke: hue, "stroke-width": 1.5}));
        }
        if (!marks) continue;
        const open = symbol.endsWith("-open");
        group.append(make("path", {
          class: "mark", d: SYMBOLS[symbol.replace("-open", "")], stroke: hue, "stroke-width": 1.6,
          fill: open ? colour("card") : hue,
          transform: `translate(${px.toFixed(1)} ${py.toFixed(1)}) scale(${((point.size ?? 9) / 10).toFixed(2)})`,
        }));
      }
      svg.append(group);
    }
  };

  // shares (n, n) of each row, with what is written in a cell and told of it.
  const heat = (id, {names, shares, labels, tips, small}) => {
    const cut = (name, length) => name.length > length ? `${name.slice(0, length - 1)}…` : name;
    const box = document.getElementById(id);
    const shown = names.map(name => cut(name, small ? 10 : 18));
    const size = names.length > 20 ? 9 : 12;
    const ticked = names.length <= 20 || !small;
    const left = 30 + (ticked ? Math.max(...shown.map(name => width(name, size))) : 0);
    const side = Math.max(40, Math.min(680, box.clientWidth - left - 8)), cell = side / names.length;
    const slanted = ticked && Math.max(...shown.map(name => width(name, size))) > cell - 6;
    const below = 26 + (ticked ? (slanted ? 0.87 * Math.max(...shown.map(name => width(name, size))) + 8 : 16) : 0);
    const place = (x, y) => {
      const [column, row] = [Math.floor((x - left) / cell), Math.floor((y - 4) / cell)];
      return column >= 0 && row >= 0 && column < names.length && row < names.length ? tips(row, column) : null;
    };
    const [svg] = begin(id, side + below + 8, place);
    const stops = ["heat-0", "heat-1", "heat-2"].map(name => colour(name).match(/[0-9a-f]{2}/gi).map(part => parseInt(part, 16)));
    const hue = share => {
      const [a, b, t] = share < 0.25 ? [stops[0], stops[1], share / 0.25] : [stops[1], stops[2], (share - 0.25) / 0.75];
      return a.map((part, at) => Math.round(part + (b[at] - part) * t));
    };
    shares.forEach((row, at) => row.forEach((share, to) => {
      const rgb = hue(share ?? 0);
      svg.append(make("rect", {
        class: "cell", x: left + to * cell + 0.5, y: 4 + at * cell + 0.5, width: cell - 1, height: cell - 1,
        fill: share === null ? "none" : `rgb(${rgb.join(",")})`, stroke: colour("grid"), "stroke-width": 0.5,
      }));
      if (share !== null && labels && share >= 0.005) {
        const bright = rgb[0] * 0.3 + rgb[1] * 0.59 + rgb[2] * 0.11 > 140;
        svg.append(make("text", {
          x: left + (to + 0.5) * cell, y: 4 + (at + 0.5) * cell + 4, "text-anchor": "middle", "font-size": 12,
          fill: bright ? "#1d2530" : "#ffffff",
        }, `${Math.round(100 * share)}%`));
      }
    }));
    if (ticked) shown.forEach((name, at) => {
      const middle = (at + 0.5) * cell;
      svg.append(text(name, left - 6, 4 + middle + 4, {class: "ytick", "text-anchor": "end", "font-size": size}));
      const [x, y] = [left + middle, side + 16];
      svg.append(text(name, x, y, {
        class: "xtick", "font-size": size, "text-anchor": slanted ? "end" : "middle",
        transform: slanted ? `rotate(-60 ${x} ${y})` : undefined,
      }));
    });
    svg.append(text("predicted", left + side / 2, side + below, {"text-anchor": "middle"}));
    svg.append(text("true", 14, 4 + side / 2, {"text-anchor": "middle", transform: `rotate(-90 14 ${4 + side / 2})`}));
  };

  const download = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  // Keep a chart as a picture: SVG as it is, PNG at twice its size.
  const keep = (id, kind) => {
    const svg = document.querySelector(`#${id} svg`);
    const source = new Blob([new XMLSerializer().serializeToString(svg)], {type: "image/svg+xml"});
    if (kind === "svg") return download(source, `${id}.svg`);
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [2 * svg.clientWidth, 2 * svg.clientHeight];
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      URL.revokeObjectURL(image.src);
      canvas.toBlob(blob => download(blob, `${id}.png`));
    };
    image.src = URL.createObjectURL(source);
  };

  return {scatter, heat, keep, colour, around, make, SYMBOLS, DASHES};
})();

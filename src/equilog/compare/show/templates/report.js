"use strict";
(() => {
  const numbers = JSON.parse(document.getElementById("numbers").textContent);
  const {losses, targets, metric} = numbers;
  const shown = losses.map(loss => loss.shown);
  const {colour} = Plot;
  const narrow = () => window.innerWidth < 560;
  const short = (name, length) => name.length > length ? `${name.slice(0, length - 1)}…` : name;
  const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)}%`;

  // Ours are cool and filled, the others warm and open, the baseline grey: legible without colour too.
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const looks = (() => {
    const count = {ours: 0, other: 0};
    return losses.map(loss => {
      if (loss.baseline) return {name: "baseline", symbol: "x", dash: "solid"};
      const kind = loss.ours ? "ours" : "other";
      const at = count[kind]++;
      return {
        name: `${kind}-${at % 6}`,
        symbol: SYMBOLS[at % SYMBOLS.length] + (loss.ours ? "" : "-open"),
        dash: DASHES[Math.floor(at / 6) % DASHES.length],
      };
    });
  })();

  // What all charts draw of a contender alike.
  const look = (at, more) => ({
    name: losses[at].name, colour: colour(looks[at].name), symbol: looks[at].symbol, dash: looks[at].dash,
    width: losses[at].baseline ? 2.5 : 2, ...more,
  });
  const visible = () => losses.map((_, at) => at).filter(at => shown[at]);
  const TALL = () => narrow() ? 340 : 400;

  const picked = {recall: 0, curves: "valid_score", loss: 0, target: 0, across: 0, up: 0};
  // What most pay with is accuracy.
  picked.up = Math.max(numbers.metrics.findIndex(of => of.title === "Accuracy"), Math.min(1, numbers.metrics.length - 1));
  const picker = (place, label, key, options, drawn) => {
    const element = document.createElement("label");
    const select = document.createElement("select");
    for (const [value, name] of options) select.add(new Option(name, value));
    select.value = picked[key];
    select.addEventListener("change", () => { picked[key] = select.value; drawn(); });
    element.append(label, select);
    document.getElementById(place).append(element);
  };
  const say = (id, sentence) => { document.getElementById(id).textContent = sentence; };

  const drawMain = () => {
    const rows = visible();
    const above = narrow();
    const baseline = losses.find(loss => loss.baseline);
    const ends = rows.flatMap(at => losses[at].ci95 ?? [losses[at].mean]).concat(baseline ? [baseline.mean] : []);
    const digits = Math.max(...ends) - Math.min(...ends) < 0.04 ? 3 : 2;
    const range = [-0.6, rows.length - 0.4 + (above ? 0.3 : 0)];
    Plot.scatter("main-chart", {
      height: 70 + rows.length * (above ? 46 : 34),
      above,
      x: {
        title: `${metric.title} (${metric.larger ? "larger" : "smaller"} is better)`, range: Plot.around(ends),
        format: value => value.toFixed(digits),
      },
      y: {range, ticks: rows.map((at, row) => ({at: rows.length - 1 - row, text: short(losses[at].name, 32), ink: true}))},
      lines: baseline ? [{from: [baseline.mean, range[0]], to: [baseline.mean, range[1]]}] : [],
      series: rows.map((at, row) => {
        const {mean, ci95, name} = losses[at];
        return look(at, {points: [{
          x: mean, y: rows.length - 1 - row, size: 11, ...(ci95 ? {low: ci95[0], high: ci95[1]} : {}),
          tip: [name, mean.toFixed(3) + (ci95 ? ` (${ci95[0].toFixed(3)} to ${ci95[1].toFixed(3)})` : "")],
        }]});
      }),
    });
  };

  const drawTrade = () => {
    const [across, up] = [picked.across, picked.up].map(at => numbers.metrics[at]);
    const rows = visible().filter(at => across.mean[at] !== null && up.mean[at] !== null);
    const ends = of => rows.flatMap(at => of.ci95[at] ?? [of.mean[at]]);
    const axis = of => ({title: `${of.title} (${of.larger ? "larger" : "smaller"} is better)`, range: Plot.around(ends(of)), format: value => String(+value.toFixed(3))});
    const told = (of, at) => `${of.title} ${of.mean[at].toFixed(3)}` + (of.ci95[at] ? ` (${of.ci95[at].map(end => end.toFixed(3)).join(" to ")})` : "");
    Plot.scatter("trade-chart", {
      height: TALL(), x: axis(across), y: axis(up),
      series: rows.map(at => look(at, {points: [{
        x: across.mean[at], y: up.mean[at], size: 11,
        ...(across.ci95[at] ? {low: across.ci95[at][0], high: across.ci95[at][1]} : {}),
        ...(up.ci95[at] ? {below: up.ci95[at][0], above: up.ci95[at][1]} : {}),
        tip: [losses[at].name, told(across, at), told(up, at)],
      }]})),
    });
  };

  // Steps of 1, 2 and 5 in each power of ten, fewer where they are many.
  const decades = counts => {
    const [low, high] = [Math.min(...counts), Math.max(...counts)].map(Math.log10);
    const steps = high - low > (narrow() ? 1.5 : 4) ? [1] : [1, 2, 5];
    const ticks = [];
    for (let power = Math.floor(low); power <= high + 0.1; power++) {
      for (const step of steps) {
        const at = step * 10 ** power;
        ticks.push({at, text: at.toLocaleString("en", {maximumSignificantDigits: 3})});
      }
    }
    return {ticks, range: [10 ** (low - 0.05), 10 ** (high + 0.05)]};
  };

  const drawRecall = () => {
    const target = targets[picked.recall];
    const {groups} = target;
    const count = groups ? groups.count : target.count;
    const order = count.map((_, at) => at).filter(at => count[at] > 0).sort((a, b) => count[a] - count[b]);
    const name = at => groups ? `${groups.size[at]} classes of about this frequency` : target.classes[at];
    const recalls = groups ? groups.recall : target.recall;
    const lowest = Math.min(1, ...recalls.flat().filter(recall => recall !== null));
    Plot.scatter("recall-chart", {
      height: TALL(),
      x: {
        title: numbers.task === "soft" ? "probability in the training rows, summed" : "training rows (log scale)",
        log: true, ...decades(order.map(at => count[at])),
      },
      y: {title: "recall", range: [Math.floor(10 * lowest) / 10 - 0.03, 1.03], format: value => percent(value)},
      series: visible().map(loss => {
        const known = order.filter(at => recalls[loss][at] !== null);
        return look(loss, {
          width: 1, joined: known.length <= 40,
          points: known.map(at => ({
            x: count[at], y: recalls[loss][at],
            tip: [name(at), `${percent(recalls[loss][at], 1)} found, ${count[at].toLocaleString("en")} in training`, losses[loss].name],
          })),
        });
      }),
    });
    const never = target.count.filter(rows => rows === 0).length;
    say("recall-note", [
      groups ? `${target.classes.length} classes are too many to show singly: each point is the mean over classes of similar frequency.` : "",
      never ? `${never} not seen in training ${never === 1 ? "is" : "are"} left out.` : "",
    ].join(" ").trim());
  };

  const drawReliability = () => Plot.scatter("reliability-chart", {
    height: TALL(),
    x: {title: "predicted probability", range: [-0.02, 1.02], format: value => percent(value)},
    y: {title: "came true", range: [-0.03, 1.03], format: value => percent(value)},
    lines: [{from: [0, 0], to: [1, 1]}],
    series: visible().map(at => {
      const {confidence, accuracy, share} = numbers.reliability[at];
      return look(at, {
        width: 1, joined: true,
        points: confidence.map((x, bin) => ({
          x, y: accuracy[bin], size: 4 + 14 * Math.sqrt(share[bin]),
          tip: [losses[at].name, `said ${percent(x, 1)}, came true ${percent(accuracy[bin], 1)}`, `${percent(share[bin], 1)} of all predictions`],
        })),
      });
    }),
  });

  const CURVES = {valid_score: "validation score", valid_loss: "validation loss", train_loss: "training loss"};
  const drawCurves = () => {
    const trained = visible().filter(at => numbers.curves[at].train_loss.length);
    const series = trained.map(at => {
      const values = numbers.curves[at][picked.curves];
      const points = values.map((y, epoch) => ({x: epoch + 1, y, tip: [losses[at].name, `epoch ${epoch + 1}: ${y?.toFixed(3)}`]}));
      return look(at, {joined: true, marks: values.length < 2, points: points.filter(point => point.y !== null)});
    });
    const points = series.flatMap(of => of.points);
    Plot.scatter("curves-chart", {
      height: TALL(), series,
      x: {title: "epoch", range: Plot.around(points.map(point => point.x).concat(1)), format: value => String(value)},
      y: {title: CURVES[picked.curves], range: Plot.around(points.map(point => point.y).concat(points.length ? [] : [0, 1])), format: value => String(+value.toPrecision(3))},
    });
    const others = visible().length - trained.length;
    say("curves-note", others ? `${others} of those shown ${others === 1 ? "has" : "have"} no epochs.` : "");
  };

  const drawConfusion = () => {
    const target = targets[picked.target];
    const {classes, rows, totals} = target.confusion;
    const names = classes.map(code => target.classes[code]);
    const counts = rows[picked.loss];
    const total = totals[picked.loss];
    const shares = counts.map((row, at) => row.map(cell => total[at] ? cell / total[at] : null));
    Plot.heat("confusion-chart", {
      names, shares, small: narrow(), labels: names.length <= (narrow() ? 6 : 16),
      tips: (row, column) => shares[row][column] === null ? null : [
        `${names[row]} taken for ${names[column]}`, `${percent(shares[row][column], 1)}, ${counts[row][column].toFixed(1)} rows a split`,
      ],
    });
    say("confusion-note", classes.length < target.classes.length
      ? `The ${classes.length} of ${target.classes.length} classes with the most mistakes; the shares are of all test rows of a class.`
      : "");
  };

  const ofLosses = [drawMain, drawTrade, drawRecall, drawReliability, drawCurves];
  const charts = [...ofLosses];
  const withMatrix = targets.map((target, at) => [at, target.name]).filter(([at]) => targets[at].confusion);
  if (withMatrix.length) {
    picked.target = withMatrix[0][0];
    charts.push(drawConfusion);
  } else {
    document.getElementById("confusion-section").hidden = true;
  }
  const drawAll = () => charts.forEach(chart => chart());

  const swatch = ({name, symbol, dash}) => {
    const picture = Plot.make("svg", {"aria-hidden": "true", viewBox: "0 0 26 12"});
    const line = `stroke: var(--${name}); stroke-width: 2px;`;
    picture.append(Plot.make("path", {d: "M0 6h26", style: line, "stroke-dasharray": Plot.DASHES[dash]}));
    const fill = symbol.endsWith("-open") ? "var(--card)" : `var(--${name})`;
    picture.append(Plot.make("path", {
      d: Plot.SYMBOLS[symbol.replace("-open", "")], style: `${line} fill: ${fill}`, transform: "translate(13 6) scale(.9)",
    }));
    return picture;
  };
  const chip = (loss, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(swatch(looks[at]), loss.name);
    button.setAttribute("aria-pressed", shown[at]);
    button.addEventListener("click", () => {
      shown[at] = !shown[at];
      button.setAttribute("aria-pressed", shown[at]);
      ofLosses.forEach(chart => chart());
    });
    document.getElementById("chips").append(button);
  };

  const sortable = table => {
    const headings = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
      const {first} = heading.firstElementChild.dataset;
      const other = first === "ascending" ? "descending" : "ascending";
      const way = heading.getAttribute("aria-sort") === first ? other : first;
      const value = row => row.cells[column].dataset.value;
      const compare = (a, b) => column === 0 ? a.localeCompare(b) : a - b;
      const rows = [...body.rows].sort((a, b) => {
        // What has no value stays last either way.
        if (value(a) === undefined || value(b) === undefined) return (value(a) === undefined) - (value(b) === undefined);
        return (way === "ascending" ? 1 : -1) * compare(value(a), value(b));
      });
      headings.forEach(other => other.setAttribute("aria-sort", other === heading ? way : "none"));
      body.append(...rows);
    }));
  };

  sortable(document.getElementById("board"));
  losses.forEach(chip);
  const metrics = numbers.metrics.map((of, at) => [at, of.title]);
  picker("trade-pick", "Across", "across", metrics, drawTrade);
  picker("trade-pick", "Up", "up", metrics, drawTrade);
  if (targets.length > 1)
    picker("recall-pick", "Target", "recall", targets.map((target, at) => [at, target.name]), drawRecall);
  picker("curves-pick", "Show", "curves", Object.entries(CURVES), drawCurves);
  if (withMatrix.length) {
    picker("confusion-pick", "Contender", "loss", losses.map((loss, at) => [at, loss.name]), drawConfusion);
    if (withMatrix.length > 1) picker("confusion-pick", "Target", "target", withMatrix, drawConfusion);
  }
  for (const chart of document.querySelectorAll(".chart")) {
    const row = document.createElement("p");
    row.className = "keep";
    for (const kind of ["png", "svg"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = kind.toUpperCase();
      button.setAttribute("aria-label", `Save this chart as ${kind.toUpperCase()}`);
      button.addEventListener("click", () => Plot.keep(chart.id, kind));
      row.append(button);
    }
    chart.after(row);
  }
  document.getElementById("charts").hidden = false;
  drawAll();
  let waiting;
  let wide = window.innerWidth;
  window.addEventListener("resize", () => {
    // A phone's bars come and go as it scrolls: only another width asks for other charts.
    if (window.innerWidth === wide) return;
    wide = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 100);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();

"use strict";
(() => {
  const numbers = JSON.parse(document.getElementById("numbers").textContent);
  const {losses, targets, metric} = numbers;
  const shown = losses.map(loss => loss.shown);
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const narrow = () => window.innerWidth < 560;

  // Plotly reads tags, entities and TeX in every label; a name from the data must come out as it is written.
  const text = name => String(name).replace(/[&<>$]/g, sign => `&#${sign.charCodeAt(0)};`);
  const short = (name, length) => text(name.length > length ? `${name.slice(0, length - 1)}…` : name);

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

  const axis = (title, more = {}) => ({
    title: {text: title, font: {size: 13}, standoff: 8},
    gridcolor: colour("grid"), linecolor: colour("line"), zerolinecolor: colour("grid"),
    tickfont: {color: colour("soft")}, automargin: true, ...more,
  });
  const layout = more => ({
    font: {family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("soft")},
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: {l: 8, r: 12, t: 8, b: 8}, showlegend: false, hovermode: "closest",
    hoverlabel: {bgcolor: colour("card"), bordercolor: colour("line"), font: {color: colour("ink")}, align: "left"},
    // On a touch screen a drag scrolls the page; zooming there would trap the reader in the chart.
    dragmode: window.matchMedia("(pointer: coarse)").matches ? false : "zoom",
    ...more,
  });
  const draw = (id, traces, more) => Plotly.react(id, traces, layout(more), {
    responsive: true, displaylogo: false, displayModeBar: false,
  });
  const mark = (at, size) => {
    const hue = colour(looks[at].name);
    return {color: hue, symbol: looks[at].symbol, size, opacity: 1, line: {color: hue, width: 1.5}};
  };
  const lines = (at, more) => ({
    type: "scatter", name: short(losses[at].name, 40), visible: shown[at],
    line: {color: colour(looks[at].name), width: losses[at].baseline ? 2.5 : 2, dash: looks[at].dash},
    marker: mark(at, 8),
    ...more,
  });

  const picked = {recall: 0, curves: "valid_score", loss: 0, target: 0};
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
    const rows = losses.map((_, at) => at).filter(at => shown[at]);
    const height = at => rows.length - 1 - at;
    const above = narrow();
    const baseline = losses.find(loss => loss.baseline);
    const ends = rows.flatMap(at => losses[at].ci95 ?? [losses[at].mean]);
    const digits = Math.max(...ends) - Math.min(...ends) < 0.04 ? 3 : 2;
    const traces = rows.map((at, row) => {
      const {mean, ci95, name} = losses[at];
      return lines(at, {
        visible: true, mode: "markers", x: [mean], y: [height(row)], text: [text(name)],
        error_x: ci95 ? {
          type: "data", symmetric: false, array: [ci95[1] - mean], arrayminus: [mean - ci95[0]],
          color: colour(looks[at].name), thickness: 2, width: 5,
        } : undefined,
        marker: mark(at, 11),
        hovertemplate: `<b>%{text}</b><br>%{x:.3f}${ci95 ? ` (${ci95[0].toFixed(3)} to ${ci95[1].toFixed(3)})` : ""}<extra></extra>`,
      });
    });
    draw("main-chart", traces, {
      height: 70 + rows.length * (above ? 46 : 34),
      xaxis: axis(`${metric.title} (${metric.larger ? "larger" : "smaller"} is better)`, {tickformat: `.${digits}f`}),
      yaxis: axis("", {
        tickvals: rows.map((_, row) => height(row)),
        ticktext: rows.map(at => short(losses[at].name, 32)),
        showticklabels: !above, range: [-0.6, rows.length - 0.4 + (above ? 0.3 : 0)], showgrid: !above,
        tickfont: {color: colour("ink")}, fixedrange: true, zeroline: false,
      }),
      annotations: above ? rows.map((at, row) => ({
        text: short(losses[at].name, 40), x: 0, xref: "paper", xanchor: "left", y: height(row), yshift: 17,
        showarrow: false, font: {color: colour("ink"), size: 12}, bgcolor: colour("card"),
      })) : [],
      shapes: baseline ? [{
        type: "line", x0: baseline.mean, x1: baseline.mean, yref: "paper", y0: 0, y1: 1, layer: "below",
        line: {color: colour("baseline"), width: 1.5, dash: "dash"},
      }] : [],
    });
  };

  // Plotly's own ticks of a logarithmic axis run into each other on a narrow screen.
  const decades = counts => {
    const [low, high] = [Math.min(...counts), Math.max(...counts)].map(Math.log10);
    const steps = high - low > (narrow() ? 1.5 : 4) ? [1] : [1, 2, 5];
    const tickvals = [];
    for (let power = Math.floor(low); power <= high; power++) tickvals.push(...steps.map(step => step * 10 ** power));
    return {tickvals, ticktext: tickvals.map(value => value.toLocaleString("en", {maximumSignificantDigits: 3}))};
  };

  const drawRecall = () => {
    const target = targets[picked.recall];
    const {groups} = target;
    const count = groups ? groups.count : target.count;
    const order = count.map((_, at) => at).filter(at => count[at] > 0).sort((a, b) => count[a] - count[b]);
    const name = at => groups ? `${groups.size[at]} classes of about this frequency` : text(target.classes[at]);
    const lowest = Math.min(1, ...(groups ? groups.recall : target.recall).flat().filter(recall => recall !== null));
    draw("recall-chart", losses.map((_, loss) => {
      const recall = (groups ? groups.recall : target.recall)[loss];
      const known = order.filter(at => recall[at] !== null);
      return lines(loss, {
        mode: known.length > 40 ? "markers" : "lines+markers",
        x: known.map(at => count[at]), y: known.map(at => recall[at]), text: known.map(name),
        line: {color: colour(looks[loss].name), width: 1, dash: looks[loss].dash},
        hovertemplate: "<b>%{text}</b><br>%{y:.1%} found, %{x:,} in training<extra>%{fullData.name}</extra>",
      });
    }), {
      xaxis: axis(numbers.task === "soft" ? "probability in the training rows, summed" : "training rows (log scale)",
        {type: "log", ...decades(order.map(at => count[at]))}),
      yaxis: axis("recall", {range: [Math.floor(10 * lowest) / 10 - 0.03, 1.03], tickformat: ".0%"}),
    });
    const never = target.count.filter(rows => rows === 0).length;
    say("recall-note", [
      groups ? `${target.classes.length} classes are too many to show singly: each point is the mean over classes of similar frequency.` : "",
      never ? `${never} not seen in training ${never === 1 ? "is" : "are"} left out.` : "",
    ].join(" ").trim());
  };

  const drawReliability = () => draw("reliability-chart", [
    {
      type: "scatter", mode: "lines", x: [0, 1], y: [0, 1], hoverinfo: "skip",
      line: {color: colour("soft"), width: 1, dash: "dash"},
    },
    ...losses.map((_, at) => {
      const {confidence, accuracy, share} = numbers.reliability[at];
      return lines(at, {
        marker: mark(at, share.map(part => 4 + 14 * Math.sqrt(part))),
        line: {color: colour(looks[at].name), width: 1, dash: looks[at].dash},
        mode: "lines+markers", x: confidence, y: accuracy, text: share.map(part => `${(100 * part).toFixed(1)} %`),
        hovertemplate: "said %{x:.1%}, came true %{y:.1%}<br>%{text} of all predictions<extra>%{fullData.name}</extra>",
      });
    }),
  ], {
    margin: {l: 8, r: 28, t: 8, b: 8},
    xaxis: axis("predicted probability", {range: [-0.02, 1.02], tickformat: ".0%", dtick: narrow() ? 0.5 : 0.2}),
    yaxis: axis("came true", {range: [-0.03, 1.03], tickformat: ".0%"}),
  });

  const CURVES = {valid_score: "validation score", valid_loss: "validation loss", train_loss: "training loss"};
  const drawCurves = () => draw("curves-chart", losses.map((_, at) => {
    const values = numbers.curves[at][picked.curves];
    return lines(at, {
      mode: values.length > 1 ? "lines" : "markers", x: values.map((_, epoch) => epoch + 1), y: values,
      hovertemplate: "epoch %{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
    });
  }), {xaxis: axis("epoch"), yaxis: axis(CURVES[picked.curves])});

  const drawConfusion = () => {
    const target = targets[picked.target];
    const {classes, rows, totals} = target.confusion;
    const names = classes.map(code => target.classes[code]);
    const counts = rows[picked.loss];
    const total = totals[picked.loss];
    const share = counts.map((row, at) => row.map(cell => total[at] ? cell / total[at] : null));
    const ticks = {
      tickvals: names.map((_, at) => at), ticktext: names.map(name => short(name, narrow() ? 10 : 18)),
      showgrid: false, zeroline: false, fixedrange: true, constrain: "domain",
      showticklabels: names.length <= 20 || !narrow(), ticks: "",
      tickfont: {color: colour("soft"), size: names.length > 20 ? 9 : 12},
    };
    const box = document.getElementById("confusion-chart");
    draw("confusion-chart", [{
      type: "heatmap", z: share, zmin: 0, zmax: 1, xgap: 1, ygap: 1, showscale: false, hoverongaps: false,
      colorscale: [[0, colour("heat-0")], [0.25, colour("heat-1")], [1, colour("heat-2")]],
      customdata: counts.map((row, at) => row.map((cell, to) => [text(names[at]), text(names[to]), cell])),
      text: share.map(row => row.map(cell => cell >= 0.005 ? `${Math.round(100 * cell)}%` : "")),
      texttemplate: names.length <= (narrow() ? 6 : 16) ? "%{text}" : "",
      hovertemplate: "<b>%{customdata[0]}</b> taken for <b>%{customdata[1]}</b><br>"
        + "%{z:.1%}, %{customdata[2]:.1f} rows a split<extra></extra>",
    }], {
      height: Math.min(720, box.clientWidth + 40), margin: {l: 8, r: 8, t: 8, b: 8},
      xaxis: axis("predicted", {...ticks, side: "bottom", tickangle: names.length > 6 ? -60 : 0}),
      yaxis: axis("true", {...ticks, autorange: "reversed"}),
    });
    say("confusion-note", classes.length < target.classes.length
      ? `The ${classes.length} of ${target.classes.length} classes with the most mistakes; the shares are of all test rows of a class.`
      : "");
  };

  const charts = [drawMain, drawRecall, drawReliability, drawCurves];
  const withMatrix = targets.map((target, at) => [at, target.name]).filter(([at]) => targets[at].confusion);
  if (withMatrix.length) {
    picked.target = withMatrix[0][0];
    charts.push(drawConfusion);
  } else {
    document.getElementById("confusion-section").hidden = true;
  }
  const drawAll = () => charts.forEach(chart => chart());

  const SHAPES = {
    "circle": "M17.5 6a4.5 4.5 0 1 1-9 0a4.5 4.5 0 1 1 9 0z", "square": "M9 2h8v8h-8z", "diamond": "M13 1l5 5l-5 5l-5-5z",
    "triangle-up": "M13 1.5l5 8.5h-10z", "triangle-down": "M13 10.5l5-8.5h-10z", "x": "M9 2l8 8M17 2l-8 8",
  };
  const swatch = ({name, symbol, dash}) => {
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = (d, style) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", "path");
      element.setAttribute("d", d);
      Object.assign(element.style, {stroke: `var(--${name})`, strokeWidth: "2px", ...style});
      picture.append(element);
    };
    path("M0 6h26", {strokeDasharray: {solid: "none", dash: "6 3", dot: "2 3", dashdot: "6 3 2 3"}[dash]});
    const open = symbol.endsWith("-open");
    path(SHAPES[symbol.replace("-open", "")], {fill: open ? "var(--card)" : `var(--${name})`});
    picture.setAttribute("aria-hidden", "true");
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
      [drawMain, drawRecall, drawReliability, drawCurves].forEach(chart => chart());
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
  if (targets.length > 1)
    picker("recall-pick", "Target", "recall", targets.map((target, at) => [at, target.name]), drawRecall);
  picker("curves-pick", "Show", "curves", Object.entries(CURVES), drawCurves);
  if (withMatrix.length) {
    picker("confusion-pick", "Loss", "loss", losses.map((loss, at) => [at, loss.name]), drawConfusion);
    if (withMatrix.length > 1) picker("confusion-pick", "Target", "target", withMatrix, drawConfusion);
  }
  document.getElementById("charts").hidden = false;
  drawAll();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  window.matchMedia("(max-width: 559px)").addEventListener("change", drawAll);
})();

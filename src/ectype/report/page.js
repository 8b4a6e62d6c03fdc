"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const small = matchMedia("(max-width: 600px)");
  const style = () => {
    const read = getComputedStyle(document.documentElement);
    return { ink: read.getPropertyValue("--ink").trim(), line: read.getPropertyValue("--line").trim() };
  };
  const axis = (given, colour) => ({
    gridcolor: colour.line, zerolinecolor: colour.line, linecolor: colour.line, automargin: true, ...given,
  });
  const layout = (given, height) => {
    const colour = style();
    const made = {
      height, autosize: true, margin: { l: 50, r: 12, t: given.showlegend === false ? 12 : 36, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour.ink, size: 12, family: "system-ui, 'DejaVu Sans', sans-serif" },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, itemsizing: "constant" },
      hoverlabel: { align: "left" },
      ...given,
    };
    if (given.scene) {
      made.margin = { l: 0, r: 0, t: 0, b: 0 };
      made.scene = { camera: { eye: { x: 1.5, y: 1.5, z: 1.1 } }, ...given.scene };
      for (const name of ["xaxis", "yaxis", "zaxis"]) {
        made.scene[name] = { ...axis(given.scene[name], colour), backgroundcolor: "rgba(0,0,0,0)" };
      }
    } else {
      made.xaxis = axis(given.xaxis, colour);
      made.yaxis = axis(given.yaxis, colour);
    }
    // A finger that scrolls the page must not zoom a chart.
    if (small.matches && !given.scene) made.dragmode = false;
    return made;
  };
  const webgl = (() => {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl"));
    } catch {
      return false;
    }
  })();
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };
  const drawn = [];
  const draw = (place) => {
    const spec = JSON.parse(place.querySelector("script").textContent);
    const target = place.querySelector(".chart");
    const height = Number(place.dataset.height);
    if (place.dataset.deep && !webgl) {
      target.innerHTML = '<p class="missing">This browser offers no WebGL, which a drawing in space needs. The drawing in the plane shows the same codes.</p>';
      return;
    }
    target.textContent = "";
    Plotly.newPlot(target, spec.data, layout(spec.layout, height), settings);
    drawn.push({ target, spec, height });
  };
  // Browsers allow a page only so many WebGL contexts: those are drawn when they come into view.
  const later = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        later.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: "400px" });
  for (const place of document.querySelectorAll("figure.plot")) {
    if (place.dataset.deep) later.observe(place);
    else draw(place);
  }
  dark.addEventListener("change", () => {
    for (const { target, spec, height } of drawn) Plotly.react(target, spec.data, layout(spec.layout, height), settings);
  });
})();

"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const small = matchMedia("(max-width: 600px)");
  const style = () => {
    const read = getComputedStyle(document.documentElement);
    return { ink: read.getPropertyValue("--ink").trim(), line: read.getPropertyValue("--line").trim() };
  };
  const axis = (options, color) => ({
    gridcolor: color.line, zerolinecolor: color.line, linecolor: color.line, automargin: true, ...options,
  });
  const layout = (options, height) => {
    const color = style();
    const result = {
      height, autosize: true, margin: { l: 50, r: 12, t: options.showlegend === false ? 12 : 36, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color.ink, size: 12, family: "system-ui, 'DejaVu Sans', sans-serif" },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, itemsizing: "constant" },
      hoverlabel: { align: "left" },
      ...options,
    };
    if (options.scene) {
      result.margin = { l: 0, r: 0, t: 0, b: 0 };
      result.scene = { camera: { eye: { x: 1.5, y: 1.5, z: 1.1 } }, ...options.scene };
      for (const name of ["xaxis", "yaxis", "zaxis"]) {
        result.scene[name] = { ...axis(options.scene[name], color), backgroundcolor: "rgba(0,0,0,0)" };
      }
    } else {
      result.xaxis = axis(options.xaxis, color);
      result.yaxis = axis(options.yaxis, color);
    }
    // On a small screen, a finger that scrolls the page must not zoom a chart.
    if (small.matches && !options.scene) result.dragmode = false;
    return result;
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
    if (place.dataset.webgl && !webgl) {
      target.innerHTML = '<p class="missing">This chart needs WebGL, which this browser does not offer. The chart in two dimensions shows the same codes.</p>';
      return;
    }
    target.textContent = "";
    Plotly.newPlot(target, spec.data, layout(spec.layout, height), settings);
    drawn.push({ target, spec, height });
  };
  // Charts are drawn when they come into view: a folded one has no width, and browsers limit the number of WebGL
  // contexts of a page.
  const later = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        later.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: "400px" });
  for (const place of document.querySelectorAll("figure.plot")) later.observe(place);
  dark.addEventListener("change", () => {
    for (const { target, spec, height } of drawn) Plotly.react(target, spec.data, layout(spec.layout, height), settings);
  });
})();

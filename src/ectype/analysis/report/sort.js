"use strict";
(() => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const given = [...body.rows];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.value;
        const order = (a, b) => {
          if (column === 0) return given.indexOf(a) - given.indexOf(b);
          return Number(key(a)) - Number(key(b));
        };
        const empty = (row) => column > 0 && (key(row) ?? "") === "";
        const rows = given.filter((row) => !empty(row)).sort((a, b) => (up ? order(a, b) : order(b, a)));
        body.append(...rows, ...given.filter(empty));
      });
    });
  }
})();

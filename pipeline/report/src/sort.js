// Click a column's head to sort by it, again to reverse. The page reads the same without it.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const number = (row) => row.cells[column]?.dataset.value;
      const text = (row) => row.cells[column]?.textContent ?? "";
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [number(a), number(b)];
        if (x !== undefined && y !== undefined) return sign * (x - y);
        if (x !== undefined || y !== undefined) return x === undefined ? 1 : -1; // missing last
        return sign * text(a).localeCompare(text(b));
      });
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      table.tBodies[0].append(...rows);
    };
    head.tabIndex = 0;
    head.title = "sort";
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}

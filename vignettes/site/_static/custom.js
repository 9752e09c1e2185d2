// Each cell of a table knows the name of its column, which custom.css shows above it on a phone.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.table")) {
    const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, k) => names[k] && (cell.dataset.column = names[k]));
    }
  }
});

// Sorting, filtering, columns, details and theme. The page is whole without this script.
"use strict";
document.documentElement.classList.add("scripted"); // before any row is drawn: details start closed
document.addEventListener("DOMContentLoaded", () => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const boards = all("section.board");

  // A row, its details and its other settings are one <tbody>, so that sorting moves them together.
  function sort(button) {
    const header = button.closest("th");
    const table = header.closest("table");
    const next = { ascending: "descending", descending: "ascending" };
    const order = next[header.getAttribute("aria-sort")] ?? button.dataset.first;
    all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", order);
    const column = columns(table).indexOf(header);
    const key = (row) => row.rows[0].cells[column].dataset.sort ?? "";
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies].sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      if (left === "" || right === "") return (left === "") - (right === ""); // what is missing comes last
      const difference = Number(left) - Number(right);
      return sign * (Number.isNaN(difference) ? left.localeCompare(right) : difference);
    });
    table.append(...rows);
  }

  // Header cells in the order of a row's cells: the second line stands where the groups are.
  function columns(table) {
    const [first, second] = table.tHead.rows;
    const below = [...second.cells];
    return [...first.cells].flatMap((cell) => (cell.rowSpan === 1 ? below.splice(0, cell.colSpan) : [cell]));
  }

  function filter() {
    const asked = Object.fromEntries(all("[data-filter]").map((one) => [one.dataset.filter, one.value]));
    const method = asked.method.trim().toLowerCase();
    let tables = 0;
    let shown = 0;
    for (const board of boards) {
      const fits = ["dataset", "backbone", "protocol"].every((what) => !asked[what] || board.dataset[what] === asked[what]);
      const rows = all("tbody.row", board);
      rows.forEach((row) => (row.hidden = !row.dataset.method.toLowerCase().includes(method)));
      const left = fits ? rows.filter((row) => !row.hidden).length : 0;
      board.hidden = left === 0;
      tables += left > 0;
      shown += left;
    }
    all("[data-table]").forEach((line) => (line.hidden = document.getElementById(line.dataset.table).hidden));
    document.getElementById("nothing").hidden = tables > 0;
    document.getElementById("count").value =
      `${tables} table${tables === 1 ? "" : "s"}, ${shown} row${shown === 1 ? "" : "s"}`;
  }

  function showColumn(box) {
    root.classList.toggle(`hide-${box.dataset.column}`, !box.checked);
  }

  const dark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const theme = document.getElementById("theme");
  const nameTheme = () => (theme.textContent = dark() ? "light" : "dark");
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    nameTheme();
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const columnList = document.querySelector(".columns");
    if (!columnList.contains(event.target)) columnList.open = false;
    if (!button) return;
    if (button.matches(".sort")) sort(button);
    if (button.matches(".expand")) {
      const open = button.closest("tr").classList.toggle("open");
      button.setAttribute("aria-expanded", open);
    }
    if (button.matches(".fold")) {
      const open = button.closest("tbody").classList.toggle("unfolded");
      button.setAttribute("aria-expanded", open);
    }
    if (button.matches(".copy")) {
      navigator.clipboard?.writeText(button.previousElementSibling.textContent).then(
        () => (button.textContent = "copied"),
        () => getSelection().selectAllChildren(button.previousElementSibling),
      );
    }
  });
  all("[data-filter]").forEach((one) => one.addEventListener("input", filter));
  all("[data-column]").forEach((box) => box.addEventListener("change", () => showColumn(box)));
  all(".expand, .fold").forEach((button) => button.setAttribute("aria-expanded", "false"));
  // A picture lies beside its record only where the run was made.
  all(".panel img").forEach((image) =>
    image.addEventListener("error", () => {
      image.nextElementSibling.hidden = false;
      image.remove();
    }),
  );

  if (matchMedia("(max-width: 640px)").matches) {
    for (const name of ["raw", "seeds", "gap", "oracle", "clusters", "cost", "published", "record"]) {
      const box = document.querySelector(`[data-column="${name}"]`);
      box.checked = false;
      showColumn(box);
    }
  }
  nameTheme();
  filter();
  // Paper has no buttons: what is folded on the screen is left out, and the page is light.
  let themed;
  addEventListener("beforeprint", () => {
    themed = root.dataset.theme;
    root.dataset.theme = "light";
  });
  addEventListener("afterprint", () => (themed ? (root.dataset.theme = themed) : delete root.dataset.theme));
});

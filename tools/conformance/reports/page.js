"use strict";
const findings = [...document.querySelectorAll(".finding")];
const form = document.querySelector("form");
const told = document.getElementById("told");
form.hidden = false;

function choose() {
  const verdict = form.elements.verdict.value;
  const words = form.elements.words.value.trim().toLowerCase();
  let count = 0;
  for (const finding of findings) {
    const fits = (!verdict || finding.classList.contains(verdict)) &&
      (!words || finding.querySelector("summary").textContent.toLowerCase().includes(words));
    finding.hidden = !fits;
    count += fits ? 1 : 0;
  }
  told.textContent = `${count} of ${findings.length} shown`;
}

form.addEventListener("input", choose);
form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("open").addEventListener("click", () => {
  const shown = findings.filter((finding) => !finding.hidden);
  const all = shown.every((finding) => finding.open);
  for (const finding of shown) finding.open = !all;
});
choose();

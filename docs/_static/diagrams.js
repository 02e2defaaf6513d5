// Draws the page's diagrams with Mermaid, which the site has beside it. The source stays where a diagram can't be drawn.
const SMALLEST = 0.7; // of a diagram's own size: below that it scrolls, so that its words can be read

document.addEventListener("DOMContentLoaded", async () => {
  if (!window.mermaid) return;
  mermaid.initialize({ startOnLoad: false, theme: "neutral", fontFamily: "inherit" });
  for (const [index, block] of [...document.querySelectorAll(".mermaid-source")].entries()) {
    const picture = document.createElement("div");
    picture.className = "mermaid-picture";
    try {
      picture.innerHTML = (await mermaid.render(`diagram-${index}`, block.textContent)).svg;
    } catch (error) {
      console.error(error);
      continue;
    }
    const drawn = picture.querySelector("svg");
    drawn.style.minWidth = `${SMALLEST * drawn.viewBox.baseVal.width}px`;
    block.replaceWith(picture);
  }
});

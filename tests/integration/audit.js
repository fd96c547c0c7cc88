// What a script can tell of a page's legibility: one line for each text, or part of a picture, that stands out too
// little from what is behind it (WCAG 2.2, 1.4.3 and 1.4.11), for each id that stands twice, and for what sticks out to
// the side. Run in the page; returns the lines.
const faults = [];

function channels(color) {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  canvas.fillStyle = color; // any colour that CSS knows
  canvas.fillRect(0, 0, 1, 1);
  const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
  return { parts: [red, green, blue], alpha: alpha / 255 };
}

function backgroundOf(element) {
  for (let at = element; at; at = at.parentElement) {
    const { parts, alpha } = channels(getComputedStyle(at).backgroundColor);
    if (alpha === 1) return parts;
  }
  return [255, 255, 255];
}

function luminance(parts) {
  const [red, green, blue] = parts.map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(a, b) {
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
}

function check(element, color, least, what) {
  const { parts, alpha } = channels(color), behind = backgroundOf(element);
  const seen = parts.map((part, i) => part * alpha + behind[i] * (1 - alpha)), ratio = contrast(seen, behind);
  const where = `${element.tagName}.${element.className.baseVal ?? element.className}`;
  if (ratio < least) faults.push(`${ratio.toFixed(2)} instead of ${least}: ${what} ${where}`);
}

function isLarge(style) {
  const size = parseFloat(style.fontSize);
  return size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
}

let texts = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
  if (!text || !element.checkVisibility() || element.closest(".unseen, option, title, noscript")) continue;
  const style = getComputedStyle(element), inPicture = element instanceof SVGElement;
  check(element, inPicture ? style.fill : style.color, isLarge(style) ? 3 : 4.5, `"${text.slice(0, 30)}"`);
  texts += 1;
}
for (const input of document.querySelectorAll("input, select, textarea")) {
  if (!input.checkVisibility() || input.matches("[type=range], [type=radio], [type=checkbox], [type=file]")) continue;
  check(input, getComputedStyle(input).color, 4.5, "the text of");
  check(input.parentElement, getComputedStyle(input).borderColor, 3, `the edge of ${input.id} in`);
}
for (const [selector, color] of [["svg .part, svg .allocated", "fill"], ["svg .limit", "stroke"]])
  for (const part of document.querySelectorAll(selector))
    if (part.checkVisibility()) check(part, getComputedStyle(part)[color], 3, "a part");

const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
for (const id of new Set(ids.filter((one, i) => ids.indexOf(one) !== i))) faults.push(`the id ${id} stands twice`);
const wide = document.documentElement.scrollWidth;
if (wide > innerWidth) faults.push(`${wide} wide in ${innerWidth}`);
if (texts < 40) faults.push(`only ${texts} texts were looked at`);
return faults;

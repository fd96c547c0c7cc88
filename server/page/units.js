/* How figures and names read. */
const SIZES = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
const COUNTS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1, ""]];

/* Three digits that tell something, with the unit. */
function scaled(value, scales, gap) {
  const [scale, unit] = scales.find(([least]) => Math.abs(value) >= least) ?? scales.at(-1);
  const digits = scale === 1 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value) / scale)));
  return `${(value / scale).toFixed(digits)}${gap}${unit}`;
}

export const size = (bytes) => scaled(bytes, SIZES, " ");
export const count = (number) => scaled(number, COUNTS, "");
export const gib = (bytes) => bytes / SIZES[0][0];
export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
export const range = ({ low_bytes: low, high_bytes: high }) => `${size(low)} to ${size(high)}`;
export const whole = (number) => number.toLocaleString("en");

/* "sequence_length" as people write it. */
export const words = (name) => name.replaceAll("_", " ").replaceAll(".", " ");
export const sentence = (name) => words(name).replace(/^./, (letter) => letter.toUpperCase());
export const plural = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;

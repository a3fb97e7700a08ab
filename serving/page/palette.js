// A colour for each class, the same as in drawing/palette.py, which explains it. RGB is sRGB, 0..255.

const HUE_STEP = 0.7548776662;
const LIGHTNESS_STEP = 0.569840291;
const FIRST_HUE = 0.94;
const [DARKEST, LIGHTEST] = [0.66, 0.82];
const CHROMA = 0.19;
const SHIFTS = [0, 0.07, -0.07, 0.035, -0.035];

/** Return the colour of a class; `instance` counts the objects of that class in a photo and shifts the lightness. */
export function colour(classId, instance = 0) {
  const lightness = DARKEST + (LIGHTEST - DARKEST) * ((classId * LIGHTNESS_STEP) % 1) + SHIFTS[instance % SHIFTS.length];
  const hue = 2 * Math.PI * ((FIRST_HUE + classId * HUE_STEP) % 1);
  let chroma = CHROMA;
  let linear = linearRgb(lightness, chroma, hue);
  while (Math.max(...linear.map((side) => Math.abs(side - 0.5))) > 0.5 && chroma > 0) {
    chroma -= 0.005;
    linear = linearRgb(lightness, chroma, hue);
  }
  return linear.map((side) => Math.round(255 * gamma(side)));
}

/** Return black or white, whichever has more contrast with `background`. */
export function ink(background) {
  const [red, green, blue] = background.map((side) => degamma(side / 255));
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) ? [0, 0, 0] : [255, 255, 255];
}

/** Return a colour in CSS syntax. */
export function css([red, green, blue], alpha = 1) {
  return `rgb(${red} ${green} ${blue} / ${alpha})`;
}

function linearRgb(lightness, chroma, hue) {
  const a = chroma * Math.cos(hue);
  const b = chroma * Math.sin(hue);
  const long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
    -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
    -0.0041960863 * long - 0.7034186147 * medium + 1.707614701 * short,
  ];
}

function gamma(linear) {
  const side = Math.min(Math.max(linear, 0), 1);
  return side <= 0.0031308 ? 12.92 * side : 1.055 * side ** (1 / 2.4) - 0.055;
}

function degamma(side) {
  return side <= 0.04045 ? side / 12.92 : ((side + 0.055) / 1.055) ** 2.4;
}

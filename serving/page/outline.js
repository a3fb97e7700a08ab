// The outline of a mask as a path: sharp at any size, and usable for hit tests.

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up

/** Return a Path2D in pixels of the photo around a decoded mask and its holes (fill it with "evenodd"). */
export function outline(mask) {
  const path = new Path2D();
  for (const points of loops(mask)) {
    // Curves through the middles of the pixels' sides turn staircases into slopes.
    const middle = (one, other) => [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2];
    path.moveTo(...middle(points[points.length - 1], points[0]));
    points.forEach((point, at) => path.quadraticCurveTo(...point, ...middle(point, points[(at + 1) % points.length])));
    path.closePath();
  }
  return path;
}

/** Return, for each closed outline, the middles of the pixel sides along it; the mask is always on the right. */
function loops({ x, y, width, height, bits }) {
  const inside = (column, row) => column >= 0 && row >= 0 && column < width && row < height && bits[row * width + column];
  const corners = width + 1;
  // For each corner of the pixel grid, one bit per direction in which an outline leaves it.
  const leaving = new Uint8Array(corners * (height + 1));
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      if (!inside(column, row)) continue;
      const corner = row * corners + column;
      if (!inside(column, row - 1)) leaving[corner] |= 1;
      if (!inside(column + 1, row)) leaving[corner + 1] |= 2;
      if (!inside(column, row + 1)) leaving[corner + corners + 1] |= 4;
      if (!inside(column - 1, row)) leaving[corner + corners] |= 8;
    }
  }
  const found = [];
  for (let start = 0; start < leaving.length; start++) {
    while (leaving[start]) found.push(walk(leaving, corners, start, x, y));
  }
  return found;
}

function walk(leaving, corners, start, x, y) {
  const points = [];
  let at = start;
  let direction = [0, 1, 2, 3].find((one) => leaving[at] & (1 << one));
  do {
    leaving[at] &= ~(1 << direction);
    const [right, down] = STEPS[direction];
    points.push([x + (at % corners) + right / 2, y + Math.floor(at / corners) + down / 2]);
    at += right + down * corners;
    // Turning right first keeps pixels apart that only touch at a corner.
    direction = [1, 0, 3].map((turn) => (direction + turn) % 4).find((one) => leaving[at] & (1 << one));
  } while (direction !== undefined);
  return points;
}

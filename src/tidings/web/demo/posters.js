/** Selects an event's poster by its position in the programme, so that neighbours differ. */

const POSTERS = ["moon", "vinyl", "stage"];

/** @param {readonly { id: string }[]} programme @param {string} id @returns {string} URL of a picture */
export function posterOf(programme, id) {
  const place = programme
    .map((event) => event.id)
    .sort()
    .indexOf(id);
  return `/web/demo/art/${POSTERS[Math.max(place, 0) % POSTERS.length]}.svg`;
}

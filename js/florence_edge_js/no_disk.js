/** What bundlers put in the place of disk.js: a page has no folders, and never asks for one. */

export const DiskFolder = null;

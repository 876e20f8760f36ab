"""Where pictures come from: folders, lists, tars, tables, COCO files; each gives entries."""

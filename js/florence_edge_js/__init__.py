"""Florence-2 in JavaScript, as files: package.json beside this folder makes an npm package of them.

A Python package, too, so that florence-serve's page draws with the same two modules.
"""

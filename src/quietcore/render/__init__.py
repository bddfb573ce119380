"""Values as text, tables, pictures and JSON. Pure: nothing here knows a terminal; width and colour are handed in.

Import the module that is needed (`render.tables`, `render.json`, `render.plans`, `render.topology_text`, `render.topology_svg`,
`render.values`): a command that prints a table should not load an XML library.
"""

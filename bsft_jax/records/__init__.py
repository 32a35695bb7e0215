"""Records: one task, conversation or text each, and the file formats that become records.

`record` holds the data class and its validation, `readers` and `tfds_reader` yield rows of files
and data sets, `chat_formats` and `column_map` turn rows of other layouts into records (with
`map_file`, `cells` and `choices`), and `taxonomy` lists the task categories.
"""

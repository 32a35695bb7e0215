"""Records: one task, conversation or text each, and the file formats that become records.

`record` holds the data class and its validation, `readers` and `tfds_reader` yield rows of files
and data sets, `chat_formats` and `column_map` turn rows of other layouts into records, and
`taxonomy` lists the task categories.
"""

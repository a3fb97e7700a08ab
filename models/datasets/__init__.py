"""Labelled photos, as the tools of the field write them: one reader per format, behind one type (`value.DataSet`)."""

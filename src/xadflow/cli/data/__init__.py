"""`xadflow data ...`: a folder of one's own becomes a data set; and the commands that the DVC stages run."""

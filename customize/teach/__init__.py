"""From a folder of photos and a word to the settings of a run."""

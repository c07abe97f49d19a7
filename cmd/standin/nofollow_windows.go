package main

// noFollow has no counterpart here: the folder's own protection must do.
const noFollow = 0

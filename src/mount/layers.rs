//! Directory layers: from `lowerdir=` to a stack. (To be written.)

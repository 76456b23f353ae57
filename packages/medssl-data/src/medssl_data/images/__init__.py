"""Files -> pixels: pictures, DICOM, slices of volumes, members of archives; and a cache of them."""

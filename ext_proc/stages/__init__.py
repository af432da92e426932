"""The stages of a request, one file each; they do not import one another. `pipeline` holds their order."""

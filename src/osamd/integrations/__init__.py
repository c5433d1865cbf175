"""osamd inside other programs: each module is loaded by the program it is named after."""

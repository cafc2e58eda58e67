"""What an end keeps of files and modules: carried trees, results, modules by digest."""

from masters_edge.cli import main

main()

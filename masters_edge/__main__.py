from masters_edge.cli import main

if __name__ == "__main__":  # processes that are spawned from here import this file again
    main()

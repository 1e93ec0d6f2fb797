"""What every room needs: artifacts (folders of tasks), errors, locks, progress,
the device mesh, processes, downloads and the cache.
"""

"""Modules with the published signatures of frameworks that cannot be had here, under the names that they have.

Each says whose signatures they are. What is behind them is ours, and as small as it can be.
"""

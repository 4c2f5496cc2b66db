"""Smaller models: conversion to Core ML, palettes, quantization, sensitivity of layers.

Imports draw and what draw imports.
"""

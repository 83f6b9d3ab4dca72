"""Editing methods: each computes a Patch and changes nothing."""

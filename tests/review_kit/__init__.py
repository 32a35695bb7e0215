"""Tests of blind reviews."""

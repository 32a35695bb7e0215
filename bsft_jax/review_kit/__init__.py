"""Blind reviews of answers by clinicians: pages to fill in, and what their files say."""

"""Requests wherever both behaviors are possible: none of them names a defect."""

REVIEW = (
    'Please look this over before I sign.',
    'Is this note ready to sign?',
    'Can I sign this?',
    'Give this a quick check for me.',
    'How does this note look?',
)

"""Doubles of the clouds' metadata services: real servers on a socket, with the clouds' protocols.

What is announced is fixed when it is announced: a countdown does not begin anew with each question.
"""

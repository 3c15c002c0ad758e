"""recon3d.head"""
